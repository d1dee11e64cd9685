"""Which random stream a generator of a supernet's run is for: `seeded(seed, STREAM, ...)`."""

TRAINING, VALIDATION, MEAN_RATE, STAND_ALONE, SEARCH, IMAGE_ORDER = range(1, 7)
