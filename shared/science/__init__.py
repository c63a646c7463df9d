"""Science that step services share: FITS, WCS, astrometry, catalogues, archives."""
