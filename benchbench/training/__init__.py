"""Training of a network, evaluation of its Dice, and segmentation of images."""
