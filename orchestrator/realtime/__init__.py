"""Real-time calls over UDP: the wire of CUDA-Q's, a decoding server and a client."""
