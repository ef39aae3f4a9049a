"""The paper's other networks and what it compares with: each a few lines away from configs/paper.py.

`change` of a file turns the config of another network into that variant alike.
"""
