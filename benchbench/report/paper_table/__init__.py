"""Tables for a paper: chosen columns, one unit each, titles of networks, the best in bold, notes below."""
