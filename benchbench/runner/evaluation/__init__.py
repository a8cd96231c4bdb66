"""Evaluation of networks, ensembles and finished label maps on a data set, with nothing timed."""
