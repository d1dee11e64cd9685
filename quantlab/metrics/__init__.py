"""Metrics of images: against a reference set (`fid`), or image by image (`paired`)."""
