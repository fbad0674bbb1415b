"""Pure decisions on an injected clock: who waits, who runs next, when to retry. No I/O."""
