"""VOTables as archives send them: with numbers as text."""

import io

from astropy.io.votable.tree import VOTableFile


def xml_of(document: VOTableFile) -> bytes:
    """Write a VOTable by astropy's writer in Python: the one in C writes beyond its buffer (astropy issue 20419)."""
    sink = io.BytesIO()
    document.to_xml(sink, tabledata_format="tabledata", _debug_python_based_parser=True)
    return sink.getvalue()
