"""The subtraction service: coadds images (`stack`)."""
