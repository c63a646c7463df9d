"""`stdweb catalog`: make and extend local catalogue mirrors."""

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shared.contracts.bands import CATALOGS
from shared.errors import StepError

app = typer.Typer(help="Local mirrors of reference catalogues, in HATS layout.", no_args_is_help=True)

Code = Annotated[str, typer.Argument(help=f"Catalogue: {', '.join(CATALOGS)}", metavar="CATALOG")]
MirrorDir = Annotated[
    Path,
    typer.Option(help="Folder of all mirrors", envvar="STDWEB_MIRROR_DIR", file_okay=False),
]


@app.command()
def fetch(
    code: Code,
    ra: Annotated[float, typer.Argument(help="Right ascension of the centre, degrees", min=0, max=360)],
    dec: Annotated[float, typer.Argument(help="Declination of the centre, degrees", min=-90, max=90)],
    radius: Annotated[float, typer.Argument(help="Radius, degrees", min=0.001, max=90)],
    mirror_dir: MirrorDir,
    limit: Annotated[
        float | None, typer.Option(help="Faint limit, mag in the catalogue's limit column; none without it")
    ] = None,
    ca_bundle: Annotated[
        Path | None, typer.Option(help="CA certificates, PEM", envvar="STDWEB_CA_BUNDLE", exists=True)
    ] = None,
) -> None:
    """Copy a cone of a catalogue from VizieR into the local mirror; may be repeated to go on or to add fields."""
    from shared.science.archives import apply_ca_bundle
    from shared.science.catalogs.build import fetch_to_mirror

    apply_ca_bundle(ca_bundle)
    try:
        count = fetch_to_mirror(code, ra, dec, radius, limit_mag=limit, mirror_dir=mirror_dir, log=typer.echo)
    except StepError as error:
        _stop(error)
    typer.echo(f"{count} stars of {code} added to {mirror_dir / code}")


@app.command("import")
def import_file(
    code: Code,
    source: Annotated[Path, typer.Argument(help="Parquet, VOTable, FITS or CSV file", exists=True, dir_okay=False)],
    mirror_dir: MirrorDir,
) -> None:
    """Add a file with VizieR's column names to the local mirror."""
    from shared.science.catalogs.build import import_catalog

    try:
        count = import_catalog(source, mirror_dir, code)
    except StepError as error:
        _stop(error)
    typer.echo(f"{count} stars of {code} added to {mirror_dir / code}")


def _stop(error: StepError) -> NoReturn:
    typer.echo(error.user_message, err=True)
    raise typer.Exit(1)
