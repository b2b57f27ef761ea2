"""A network of 6 blocks instead of 17: much less to compile."""

SHALLOW = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 1, 2), (6, 64, 1, 2), (6, 96, 1, 2))
