"""Chat over WebSocket: `/v1/chat/stream`."""
