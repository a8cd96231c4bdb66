"""What a network would cost on a device that is not at hand, from data sheets or from operators that were timed there.

`profile` reads devices, `calibrate` makes one from this machine, `predict` makes the numbers, `target` decides whether
anything is predicted.
"""
