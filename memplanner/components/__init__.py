"""What a plan is made of: architectures, methods, optimizers, losses and quantisation, each beside its settings."""
