"""The preview service: pictures of FITS files, on request."""
