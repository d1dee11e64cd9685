"""What complexity-aware rates and momentum separation cost beside SPOS: both sides' training steps, in turns, in one run.

    python scripts/benchmark_supernet_cost.py                                    # the small space, three minutes on one core
    python scripts/benchmark_supernet_cost.py model=nas_bench_201 --device cuda  # the benchmark's networks

Both sides are `method=supernet` on random images of CIFAR-10's shape, with the same subnets in the same order, so they compute the
same networks. Each round times some steps of each, and the ratio is the median over rounds of their quotient, which what else
the machine does cannot shift. Memory is every tensor that a side holds between two steps, once all clusters have stepped: weights and
momentum.
"""
