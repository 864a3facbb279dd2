"""Tables as spreadsheets, scripts and people write them."""

import json

import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.core.spec import Spec
from tfx_finetune.types.components import SOURCES


def source(path, **options):
    return SOURCES.build(Spec("table", (str(path),), options))


def written(tmp_path, content, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def samples(source, part="all"):
    """Rows of text."""
    return [{k: v.decode() for k, v in row.items()} for row in source.read(part).as_numpy_iterator()]


def labels(path, **options):
    """{file as written: label}."""
    found = samples(source(path, **options))
    return {row["file"].removeprefix(f"{path.parent}/"): row["label"] for row in found}


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
    """Byte order mark, Windows newlines, quoted commas, blanks, semicolons: all the same table."""
    assert labels(written(tmp_path, content)) == {"a.jpg": "cat", "b, 2.jpg": "dog, small"}


def test_tsv(tmp_path):
    """In a .tsv nothing but a tab separates."""
    path = written(tmp_path, "path\tlabel, or what\na.jpg\tcat\n", "data.tsv")
    assert labels(path, label="label, or what") == {"a.jpg": "cat"}


def test_json_lines(tmp_path):
    """Numbers are labels too, 0 among them; a row may lack what others have."""
    rows = [{"image": "a.jpg"}, {"image": "b.jpg", "label": 0}, {"image": "ä.jpg", "label": ["x", " y"]}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    assert labels(written(tmp_path, text, "data.jsonl")) == {"a.jpg": "", "b.jpg": "0", "ä.jpg": "x\ny"}


def test_several_labels(tmp_path):
    """Joined in the form that heads split, in every column that a head may name; the separator can be another."""
    path = written(tmp_path, "path,label,colors\na.jpg,x; y;,red;blue\nb.jpg,,a|b\n")
    assert labels(path) == {"a.jpg": "x\ny", "b.jpg": ""}
    assert [row["colors"] for row in samples(source(path))] == ["red\nblue", "a|b"]
    assert [row["colors"] for row in samples(source(path, separator="|"))] == ["red;blue", "a\nb"]
    assert [row["colors"] for row in samples(source(path, separator=""))] == ["red;blue", "a|b"]


def test_paths(tmp_path):
    """Relative to the table, or absolute."""
    path = written(tmp_path, f"path,label\nsub/a.jpg,x\n{tmp_path.parent}/b.jpg,y\n")
    assert [row["image"] for row in samples(source(path))] == [f"{tmp_path}/sub/a.jpg", f"{tmp_path.parent}/b.jpg"]


def test_pictures_sounds_and_texts_with_gaps(tmp_path):
    """A path from the table on, a text as it is, though it holds the separator; an empty cell stays empty."""
    path = written(tmp_path, 'image,audio,text,label\na.png,a.wav,"one; two",x\n,,three,y\nb.png,b.ogg, ,x\n,,,y\n')
    found = source(path)
    assert found.paths == ("image", "audio")
    assert samples(found) == [
        {"image": f"{tmp_path}/a.png", "audio": f"{tmp_path}/a.wav", "text": "one; two"} | _named(path, 2, "x"),
        {"image": "", "audio": "", "text": "three"} | _named(path, 3, "y"),
        {"image": f"{tmp_path}/b.png", "audio": f"{tmp_path}/b.ogg", "text": ""} | _named(path, 4, "x"),
        {"image": "", "audio": "", "text": ""} | _named(path, 5, "y"),  # the survey tells of it
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
def test_which_column_is_what(tmp_path, head, row, options, content, paths):
    """By its name, by the ending of the files, or as it is said."""
    found = source(written(tmp_path, f"{head}\n{row}\n"), **options)
    (sample,) = samples(found)
    assert {name: value for name, value in sample.items() if name not in ("label", "file")} == {
        name: value.format(tmp_path) for name, value in content.items()
    }
    assert found.paths == paths


def test_broken_text_in_json(tmp_path):
    """Half a pair of surrogates is no text: it goes on as it is, so that the survey can list it."""
    path = written(tmp_path, '{"text": "a \\ud800 b", "label": "x"}\n{"text": "b", "label": "y"}\n', "data.jsonl")
    first, _ = source(path).read("all").as_numpy_iterator()
    assert first["text"] == b"a \xed\xa0\x80 b"


def test_further_columns(tmp_path):
    """Split in any spelling; group, source and language in any case; all others as they are."""
    text = "path,label,Split,GROUP,Source,language,Ripe\na,x,Train,g,s,fi,yes\nb,x,validation,,,,\nc,y,TEST,g,s,fi,no\n"
    found = source(written(tmp_path, text))
    assert found.sizes == {"train": 1, "val": 1, "test": 1}
    (row,) = samples(found, "test")
    assert {k: v for k, v in row.items() if k not in ("image", "file")} == {
        "label": "y",
        "group": "g",
        "source": "s",
        "language": "fi",
        "Ripe": "no",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\x89PNG\r\n\x1a\n\0\0",
            "cannot read the table; received: {} ('utf-8' codec can't decode byte 0x89 in position 0",
        ),
        (b'path,label\n"a,b\n', "cannot read the table; received: {} (unexpected end of data)"),
        (b"", "an empty table; received: {}"),
        (b"path,label\n", "an empty table; received: {}"),
        (
            b"name,label\na,b\n",
            "data.csv has no column for the path or the text; received: ['name', 'label']; allowed: path, file, ",
        ),
        (
            b"path,kind\na,b\n",
            "data.csv has no column for the label; received: ['path', 'kind']; allowed: label, labels, ",
        ),
        (b"path,label\na,b,c\n", "a row has another number of cells than the head; received: {}, line 2"),
        (b"path,label\na,b\nc\n", "a row has another number of cells than the head; received: {}, line 3"),
        (b"path,label\na,b\n,c\n", "no value in column path; received: {}, line 3"),
        (b"path,label,split\na,b,dev\n", "unknown split; received: dev ({}, line 2); allowed: train, val, test"),
        (
            b"path,label,split\na,b,train\nc,d,\n",
            "some rows have a split and some have none; received: {}, line 3; allowed: train, val, test",
        ),
    ],
)
def test_bad_tables(tmp_path, content, said):
    """Each says what is wrong and in which line."""
    path = written(tmp_path, content)
    assert complaint(source, path).startswith(said.format(path))


@pytest.mark.parametrize("line", ["[", '"text"', "{'path': 'a'}", "3"])
def test_bad_json(tmp_path, line):
    """A list of objects, or Python's notation, is not JSON lines."""
    path = written(tmp_path, f'{{"path": "a", "label": "x"}}\n{line}\n', "data.json")
    assert complaint(source, path) == f"not a JSON object; received: {path}, line 2; allowed: one object a line"


def test_no_such_table_or_column(tmp_path):
    """A path or an option that is mistyped."""
    gone = tmp_path / "gone.csv"
    assert complaint(source, gone).startswith(f"cannot read the table; received: {gone} ([Errno 2] No such file")
    path = written(tmp_path, "path,label,kind\na,b,c\n")
    said = "data.csv has no such column; received: kid; allowed: path, label, kind; did you mean kind?"
    assert complaint(lambda: source(path, label="kid")) == said
    assert labels(path, label="kind") == {"a": "c"}
