"""HTTP: parse, call one service, render. No business logic."""
