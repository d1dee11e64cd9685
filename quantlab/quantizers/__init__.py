"""Quantizers: pure maths in `functional`, thin modules around it, and `wrap`, which puts them into any network.

They know neither methods nor tasks and can be used alone.
"""
