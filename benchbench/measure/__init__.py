"""Measurements of one `nn.Module`: each file measures one thing."""
