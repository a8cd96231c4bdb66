"""What a network costs and is worth: each file measures one thing on any `nn.Module`."""
