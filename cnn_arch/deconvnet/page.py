"""A folder of pictures with an index page that opens from disk; it appears whole or not at all."""

import contextlib
import dataclasses
import html
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
from PIL import Image

from cnn_arch.errors import UserError

STYLE = (
    'body{font:15px/1.5 sans-serif;max-width:72em;margin:2em auto;padding:0 1em;color:#222}'
    'img{max-width:100%;border:1px solid #ccc}figcaption{margin:.4em 0 2.4em}figure{margin:0}'
    'table{border-collapse:collapse;margin-bottom:2em}td,th{border:1px solid #ccc;'
    'padding:.2em .7em;text-align:right}'
)


@dataclasses.dataclass
class Page:
    """What is written so far; `folder` takes more files."""

    folder: pathlib.Path
    title: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def picture(self, file: str, image: Image.Image, caption: str) -> None:
        """Writes a .png or .jpg file and shows it with its caption, linked to its full size."""
        image.save(self.folder / file, quality=80)
        self.parts.append(
            f'<figure><a href="{html.escape(file)}"><img src="{html.escape(file)}" '
            f'alt="{html.escape(caption)}"></a><figcaption>{html.escape(caption)}</figcaption>'
            '</figure>'
        )

    def text(self, text: str) -> None:
        """A paragraph."""
        self.parts.append(f'<p>{html.escape(text)}</p>')

    def table(self, header: list[str], rows: list[list[str]]) -> None:
        """A table of texts."""
        lines = [('th', header), *(('td', row) for row in rows)]
        cells = (
            ''.join(f'<{kind}>{html.escape(cell)}</{kind}>' for cell in row) for kind, row in lines
        )
        self.parts.append(f'<table>{"".join(f"<tr>{line}</tr>" for line in cells)}</table>')

    def document(self) -> str:
        """The page as HTML."""
        title = html.escape(self.title)
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>\n'
            + '\n'.join(self.parts)
            + '\n</html>\n'
        )


def check_target(out: pathlib.Path) -> None:
    """Raises UserError where something lies at `out` already, or no folder can be made there."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'--out={out}: it exists; choose another folder, or remove it')
    parent = out.absolute().parent
    if not parent.is_dir():
        raise UserError(f'--out={out}: there is no folder {parent}')
    if not os.access(parent, os.W_OK):
        raise UserError(f'--out={out}: {parent} cannot be written to')


@contextlib.contextmanager
def created(out: pathlib.Path, title: str) -> Iterator[Page]:
    """A page that lies at `out` once all of it is written; of several processes the first writes.

    Leaves nothing behind on an error.
    """
    check_target(out)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f'.{out.name}-', dir=out.absolute().parent))
    try:
        page = Page(scratch, title)
        yield page
        if jax.process_index() == 0:
            (scratch / 'index.html').write_text(page.document(), encoding='utf-8')
            scratch.chmod(0o755)
            if out.is_dir():
                out.rmdir()  # it is empty
            scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
