"""Tables as spreadsheets, scripts and people write them."""

import json

import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES


def source(path, **options):
    return SOURCES.build(Spec("table", (str(path),), options))


def write(tmp_path, content, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def samples(source, part="all"):
    """Return the samples as text."""
    return [{k: v.decode() for k, v in row.items()} for row in source.read(part).as_numpy_iterator()]


def labels(path, **options):
    """Return the label of each file of the table."""
    rows = samples(source(path, **options))
    return {row["file"].removeprefix(f"{path.parent}/"): row["label"] for row in rows}


@pytest.mark.parametrize(
    "content",
    [
        'path,label\na.jpg,cat\n"b, 2.jpg","dog, small"\n',
        '\ufeffpath,label\r\na.jpg,cat\r\n"b, 2.jpg","dog, small"\r\n',
        'path,label\ra.jpg,cat\r"b, 2.jpg","dog, small"\r',
        'path, label\na.jpg, cat\n"b, 2.jpg", "dog, small"\n\n',
        'Label ,FileName\ncat,a.jpg\n"dog, small","b, 2.jpg"',
        "path;label\na.jpg;cat\nb, 2.jpg;dog, small\n",
        "path\tlabel\na.jpg\tcat\nb, 2.jpg\tdog, small\n",
    ],
    ids=["plain", "excel", "old mac", "blanks", "names", "semicolons", "tabs"],
)
def test_csv_as_programs_write_it(tmp_path, content):
    """Byte order mark, Windows newlines, quoted commas, spaces and semicolons give the same table."""
    assert labels(write(tmp_path, content)) == {"a.jpg": "cat", "b, 2.jpg": "dog, small"}


def test_tsv(tmp_path):
    """Only tabs separate the cells of a .tsv file."""
    path = write(tmp_path, "path\tlabel, or what\na.jpg\tcat\n", "data.tsv")
    assert labels(path, label="label, or what") == {"a.jpg": "cat"}


def test_json_lines(tmp_path):
    """Numbers such as 0 are labels; a row may lack keys of other rows."""
    rows = [{"image": "a.jpg"}, {"image": "b.jpg", "label": 0}, {"image": "ä.jpg", "label": ["x", " y"]}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert labels(write(tmp_path, text, "data.jsonl")) == {"a.jpg": "", "b.jpg": "0", "ä.jpg": "x\ny"}


def test_several_labels(tmp_path):
    """Labels of every column are joined as heads split them; the separator is an option."""
    path = write(tmp_path, "path,label,colors\na.jpg,x; y;,red;blue\nb.jpg,,a|b\n")
    assert labels(path) == {"a.jpg": "x\ny", "b.jpg": ""}
    assert [row["colors"] for row in samples(source(path))] == ["red\nblue", "a|b"]
    assert [row["colors"] for row in samples(source(path, separator="|"))] == ["red;blue", "a\nb"]
    assert [row["colors"] for row in samples(source(path, separator=""))] == ["red;blue", "a|b"]


def test_paths(tmp_path):
    """Paths are relative to the table, or absolute."""
    path = write(tmp_path, f"path,label\nsub/a.jpg,x\n{tmp_path.parent}/b.jpg,y\n")
    assert [row["image"] for row in samples(source(path))] == [f"{tmp_path}/sub/a.jpg", f"{tmp_path.parent}/b.jpg"]


def test_several_modalities_with_missing_values(tmp_path):
    """Paths are relative to the table, a text may contain the separator, and an empty cell stays empty."""
    path = write(tmp_path, 'image,audio,text,label\na.png,a.wav,"one; two",x\n,,three,y\nb.png,b.ogg, ,x\n,,,y\n')
    data = source(path)
    assert data.paths == ("image", "audio")
    assert samples(data) == [
        {"image": f"{tmp_path}/a.png", "audio": f"{tmp_path}/a.wav", "text": "one; two"} | _named(path, 2, "x"),
        {"image": "", "audio": "", "text": "three"} | _named(path, 3, "y"),
        {"image": f"{tmp_path}/b.png", "audio": f"{tmp_path}/b.ogg", "text": ""} | _named(path, 4, "x"),
        {"image": "", "audio": "", "text": ""} | _named(path, 5, "y"),  # the survey reports it
    ]


def _named(path, line, label):
    return {"label": label, "file": f"{path}, line {line}"}


@pytest.mark.parametrize(
    ("head", "row", "options", "content", "paths"),
    [
        ("file,label", "a.wav,x", {}, {"audio": "{}/a.wav"}, ("audio",)),
        ("Path,label", "a.TXT,x", {}, {"text": "{}/a.TXT"}, ("text",)),
        ("path,text,label", "a.png,hi,x", {}, {"image": "{}/a.png", "text": "hi"}, ("image",)),
        ("Text,label", "hi,x", {}, {"text": "hi"}, ()),
        ("review,path,label", "hi,a.txt,x", {"text": "review"}, {"text": "hi", "path": "a.txt"}, ()),
        (
            "review,voice,label",
            "hi,a,x",
            {"text": "review", "audio": "voice"},
            {"text": "hi", "audio": "{}/a"},
            ("audio",),
        ),
    ],
)
def test_columns_of_modalities(tmp_path, head, row, options, content, paths):
    """The column of a modality is found by its name, by the suffix of its files, or by an option."""
    data = source(write(tmp_path, f"{head}\n{row}\n"), **options)
    (sample,) = samples(data)
    assert {name: value for name, value in sample.items() if name not in ("label", "file")} == {
        name: value.format(tmp_path) for name, value in content.items()
    }
    assert data.paths == paths


def test_invalid_unicode_in_json(tmp_path):
    """A lone surrogate stays invalid UTF-8, so that the survey can list the sample."""
    path = write(tmp_path, '{"text": "a \\ud800 b", "label": "x"}\n{"text": "b", "label": "y"}\n', "data.jsonl")
    first, _ = source(path).read("all").as_numpy_iterator()
    assert first["text"] == b"a \xed\xa0\x80 b"


def test_further_columns(tmp_path):
    """Splits have several spellings; group, source and language any case; other columns stay unchanged."""
    text = "path,label,Split,GROUP,Source,language,Ripe\na,x,Train,g,s,fi,yes\nb,x,validation,,,,\nc,y,TEST,g,s,fi,no\n"
    data = source(write(tmp_path, text))
    assert data.sizes == {"train": 1, "val": 1, "test": 1}
    (row,) = samples(data, "test")
    assert {k: v for k, v in row.items() if k not in ("image", "file")} == {
        "label": "y",
        "group": "g",
        "source": "s",
        "language": "fi",
        "Ripe": "no",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"\x89PNG\r\n\x1a\n\0\0",
            "Cannot read the table: {} ('utf-8' codec can't decode byte 0x89 in position 0",
        ),
        (b'path,label\n"a,b\n', "Cannot read the table: {} (unexpected end of data). "),
        (b"", "The table is empty: {}."),
        (b"path,label\n", "The table is empty: {}."),
        (
            b"name,label\na,b\n",
            "data.csv has no column of paths or texts: name, label. Expected: path, file, ",
        ),
        (
            b"path,kind\na,b\n",
            "data.csv has no column of the label: path, kind. Expected: label, labels, ",
        ),
        (b"path,label\na,b,c\n", "The number of cells of a row differs from the header: {}, line 2."),
        (b"path,label\na,b\nc\n", "The number of cells of a row differs from the header: {}, line 3."),
        (b"path,label\na,b\n,c\n", "The column path has no value: {}, line 3."),
        (b"path,label,split\na,b,dev\n", "Unknown split: dev ({}, line 2). Expected: train, val, test."),
        (
            b"path,label,split\na,b,train\nc,d,\n",
            "A row has no split, but other rows have one: {}, line 3. Expected: train, val, test.",
        ),
    ],
)
def test_bad_tables(tmp_path, content, message):
    """The message names the problem and the line."""
    path = write(tmp_path, content)
    assert complaint(source, path).startswith(message.format(path))


@pytest.mark.parametrize("line", ["[", '"text"', "{'path': 'a'}", "3"])
def test_bad_json(tmp_path, line):
    """A list of objects and Python's notation are not JSON lines."""
    path = write(tmp_path, f'{{"path": "a", "label": "x"}}\n{line}\n', "data.json")
    assert complaint(source, path) == f"Not a JSON object: {path}, line 2. Expected: one JSON object per line."


def test_unknown_table_or_column(tmp_path):
    """A mistyped path or option is refused."""
    gone = tmp_path / "gone.csv"
    assert complaint(source, gone).startswith(f"Cannot read the table: {gone} ([Errno 2] No such file")
    path = write(tmp_path, "path,label,kind\na,b,c\n")
    message = "data.csv has no such column: kid. Expected: path, label, kind. Did you mean kind?"
    assert complaint(lambda: source(path, label="kid")) == message
    assert labels(path, label="kind") == {"a": "c"}
