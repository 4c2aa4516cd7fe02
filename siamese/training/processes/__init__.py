"""Several processes that train one network (``trainer=ddp``). With one process, nothing here does anything.

The first process runs `siamese.training.train.train` and writes the run folder. The others, the helpers, only run the
training step (`helper`). The first process starts them and watches them, unless torchrun or SLURM did (`start`).
Each process computes the outputs of its share of every batch and gathers those of the others (`collective`).
"""
