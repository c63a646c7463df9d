"""The subtraction service: template subtraction (`subtraction`) and coadded images (`stack`)."""
