"""Training by several processes, on Paddle's own `paddle.distributed`."""
