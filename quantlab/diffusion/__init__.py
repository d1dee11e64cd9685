"""Denoising: the step and its walk (`rollout`), full-precision walks as data (`trajectories`), comparing walks
(`evaluation`).
"""
