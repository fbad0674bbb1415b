"""What every backend's embedding and rerank models share: reading, batching, answering."""
