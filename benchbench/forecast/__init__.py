"""What a network would cost on a device that is not at hand: data-sheet figures, never measurements.

`profile` reads devices, `predict` makes the numbers, `target` decides whether anything is predicted.
"""
