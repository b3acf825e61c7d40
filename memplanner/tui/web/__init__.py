"""The interface in a browser on this machine, for whoever has the address that was printed and for nobody else."""
