"""Denoising: a step and whole walks (`rollout`), full-precision walks as data (`trajectories`), comparisons of walks
(`evaluation`).
"""
