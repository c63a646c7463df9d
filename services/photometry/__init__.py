"""The photometry step: detection, calibration, limits, forced photometry of targets."""
