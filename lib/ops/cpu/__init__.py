"""The compiled CPU path: numba's loops, the vector instructions in them, and the threads that run them."""
