"""What is asked: the training plan, the flags that set it, and the files that it is read from."""
