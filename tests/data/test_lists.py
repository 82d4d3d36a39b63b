"""ImageList and load_list: what lists of files say, what they lack, and what is told about it."""

import numpy as np
import pytest

from matconvnet.data.lists import ImageList, load_list, split_by_name


def build(**changes):
    """An ImageList from correct fields, some of them changed."""
    fields = {
        "folder": "pictures",
        "names": ("a/1.jpg", "b/2.jpg", "3.jpg"),
        "labels": np.array([0, 1, -1]),
        "set": np.array([1, 2, 3]),
        "classes": ("a", "b"),
    }
    return ImageList(**(fields | changes))


def test_an_image_list_counts_its_names():
    assert len(build()) == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"labels": np.array([0, 1])}, ValueError, r"labels must have shape \(3,\)"),
        ({"labels": np.array([0, 2, 0])}, ValueError, r"labels\[1\] is 2; wanted -1 to 1"),
        ({"labels": np.array([0.0, 1, 0])}, TypeError, "labels must be int64, found float64"),
        ({"labels": np.zeros(3, "f4")}, ValueError, "labels are float32 but there are 2 classes"),
        (
            {"labels": np.zeros(2, "f4"), "classes": ()},
            ValueError,
            r"labels must have shape \(3,\), one per image; found \(2,\)",
        ),
        ({"set": np.array([1, 2, 0])}, ValueError, r"set\[2\] is 0; wanted 1 to 3"),
        ({"set": np.array([1, 2])}, ValueError, r"set must have shape \(3,\)"),
    ],
)
def test_wrong_fields(changes, error, message):
    with pytest.raises(error, match=message):
        build(**changes)


@pytest.fixture
def write(tmp_path):
    """Write a list with one image file, x.jpg, beside it, and any other files."""

    def written(text, name="list.csv", **others):
        for other, content in {"x.jpg": "", **others}.items():
            (tmp_path / other.replace("_txt", ".txt")).write_text(content)
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return written


def test_names_sets_and_labels_of_every_kind(write):
    path = write(
        "file,label,split\nx.jpg,dog,train\nd/y.PNG,cat,Validation\nz.jpg,,test\nw.jpg,-1,2\n"
    )
    found = load_list(path)
    assert found.folder == path.parent
    assert found.path(1) == path.parent / "d" / "y.PNG"
    assert found.names == ("x.jpg", "d/y.PNG", "z.jpg", "w.jpg")
    assert found.classes == ("cat", "dog")
    assert found.labels.tolist() == [1, 0, -1, -1]
    assert found.set.tolist() == [1, 2, 3, 2]


@pytest.mark.parametrize(
    "text",
    [
        'Split;Path;CLASS\ntrain;"x.jpg";b\nval;"y;1.jpg";a\n',
        "\ufeffsplit\tfilename\tcategory\r\n\r\n1\tx.jpg\tb\r\n2\ty;1.jpg\ta\r\n",
        'image,subset,target,note\nx.jpg,training,b,"two\nlines"\ny;1.jpg,VAL,a,\n',
    ],
    ids=["semicolons", "tabs and a byte order mark", "a cell of two lines"],
)
def test_csv_of_every_dialect(write, text):
    found = load_list(write(text))
    assert found.names == ("x.jpg", "y;1.jpg")
    assert found.labels.tolist() == [1, 0]
    assert found.set.tolist() == [1, 2]


def test_columns_by_option(write):
    path = write("file,original,label,kind,use\nx.jpg,o.jpg,1,a,test\n")
    (path.parent / "o.jpg").touch()
    found = load_list(path, file_column="original", label_column="kind", set_column="use")
    assert (found.names, found.classes, found.set.tolist()) == (("o.jpg",), ("a",), [3])


@pytest.mark.parametrize(
    ("cells", "classes", "labels"),
    [
        (["10", "9", "2", "9"], ("2", "9", "10"), [2, 1, 0, 1]),
        (["1.0", "0.0", "", "1.0"], ("0", "1"), [1, 0, -1, 1]),
        (["02", "1", "02", "-1"], ("1", "02"), [1, 0, 1, -1]),
        (["", "", "", "-1"], (), [-1, -1, -1, -1]),
    ],
    ids=["in order of numbers", "floats beside missing ones", "leading zeros", "unknown"],
)
def test_whole_numbers_are_names(write, cells, classes, labels):
    rows = "".join(f"x.jpg,{cell}\n" for cell in cells)
    found = load_list(write(f"file,label\n{rows}"))
    assert found.classes == classes
    assert found.labels.tolist() == labels
    assert found.labels.dtype == np.int64


def test_numbers_that_are_not_whole_are_targets(write):
    found = load_list(write("file,label\nx.jpg,0.5\nx.jpg,-1\nx.jpg,3e2\n"))
    assert found.labels.dtype == np.float32
    assert found.labels.tolist() == [0.5, -1, 300]
    assert found.classes == ()


def test_classes_beside_the_list_give_the_order(write):
    path = write("file,label\nx.jpg,dog\nx.jpg,ant\n", classes_txt="dog\ncat\n\nant\n")
    found = load_list(path)
    assert found.classes == ("dog", "cat", "ant")
    assert found.labels.tolist() == [0, 2]
    assert load_list(path, classes=["ant", "dog"]).labels.tolist() == [1, 0]


def test_numbers_beside_classes_count_from_zero(write):
    path = write("file,label\nx.jpg,2\nx.jpg,0\nx.jpg,-1\n", classes_txt="dog\ncat\nant\n")
    assert load_list(path).labels.tolist() == [2, 0, -1]
    assert load_list(path, classes=["2", "1", "0"]).labels.tolist() == [0, 2, -1]
    with pytest.raises(ValueError, match=r"line 2: label '2' is none of the 2 classes \(a, b\)"):
        load_list(path, classes=["a", "b"])


def test_files_elsewhere(write, tmp_path):
    path = write("file,label\ny.jpg,a\n")
    there = tmp_path / "there"
    there.mkdir()
    (there / "y.jpg").touch()
    assert load_list(path, folder=there).path(0) == there / "y.jpg"
    path.write_text(f"file,label\n{there / 'y.jpg'},a\n")
    assert load_list(path).path(0) == there / "y.jpg"


def test_sets_by_name_keep_when_images_come_and_go(write):
    names = [f"{i}.jpg" for i in range(2000)]
    codes = split_by_name(names, 0.25)
    assert set(codes) == {1, 2}
    assert abs((codes == 2).mean() - 0.25) < 0.05
    np.testing.assert_array_equal(split_by_name(names[::-3], 0.25), codes[::-3])
    assert (codes[split_by_name(names, 0.1) == 2] == 2).all()
    assert split_by_name(["x.jpg"], 0).tolist() == [1]
    # Another share moves the fewest; the same names give the same sets on every machine.
    assert [name for name in names[:30] if split_by_name([name])[0] == 2] == ["26.jpg"]
    path = write("file,label\n" + "".join(f"{name},a\n" for name in ["x.jpg", *names]))
    assert load_list(path, val_share=0.25).set.tolist()[1:] == codes.tolist()


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_a_share_is_below_one(share):
    with pytest.raises(ValueError, match=r"val_share is .*; wanted 0 to below 1"):
        split_by_name(["x"], share)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv: the file is empty"),
        ("file,label\n", "found headings but no images"),
        ("a,b\nx.jpg,1\n", "no column of file names; wanted one of file, .*; found a, b"),
        ("file,label\nx.jpg\n", "list.csv, line 2: found 1 fields; wanted 2: file, label"),
        ("file,label\nx.jpg,a\n\ny.jpg,a,b\n", "line 4: found 3 fields; wanted 2"),
        ("file,label\nx.jpg,a\n,b\n", "line 3: column 'file' is empty"),
        ("file,set\nx.jpg,train\nx.jpg,holdout\n", "line 3: column 'set' is 'holdout'; wanted"),
        ("file,set\nx.jpg,4\n", "line 2: column 'set' is '4'"),
        ("file,label\nx.jpg,0.5\nx.jpg,\n", "line 3: no label; wanted a number"),
        ('file,label\nx.jpg,"a\n', "list.csv, line 2: no CSV: unexpected end of data"),
        (b"file\n\xff.jpg\n", "list.csv: byte 5 is no UTF-8"),
    ],
)
def test_wrong_lists(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_list(write(text))


def test_wrong_arguments(write):
    path = write("file,label\nx.jpg,a\n")
    with pytest.raises(ValueError, match="no column 'kind' of labels; found file, label"):
        load_list(path, label_column="kind")
    with pytest.raises(ValueError, match="classes name 'a' more than once"):
        load_list(path, classes=["a", "b", "a"])
    with pytest.raises(FileNotFoundError, match=r"absent\.csv"):
        load_list(path.with_name("absent.csv"))


def test_none_of_the_files_is_there(write):
    path = write("file\n" + "".join(f"{i}.jpg\n" for i in range(12)))
    with pytest.raises(FileNotFoundError, match=r"no file '.*0\.jpg'.*argument `folder`"):
        load_list(path)
    (path.parent / "9.jpg").touch()
    assert len(load_list(path)) == 12


class TestParquet:
    def test_equals_the_csv_of_the_same_rows(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        (tmp_path / "x.jpg").touch()
        table = pa.table(
            {"file": ["x.jpg", "y.jpg", "z.jpg"], "label": [7.0, None, 11.0], "set": [1, 3, 2]}
        )
        parquet.write_table(table, tmp_path / "list.parquet")
        found = load_list(tmp_path / "list.parquet")
        assert found.names == ("x.jpg", "y.jpg", "z.jpg")
        assert found.classes == ("7", "11")
        assert found.labels.tolist() == [0, -1, 1]
        assert found.set.tolist() == [1, 3, 2]
        bad = table.set_column(2, "set", pa.array(["train", "no", "val"]))
        parquet.write_table(bad, tmp_path / "list.parquet")
        with pytest.raises(ValueError, match=r"list.parquet, row 1: column 'set' is 'no'"):
            load_list(tmp_path / "list.parquet")

    def test_damaged(self, write):
        pytest.importorskip("pyarrow")
        path = write("PAR1 and no more", "list.pq")
        with pytest.raises(ValueError, match=r"list.pq: cannot be read as Parquet"):
            load_list(path)

    def test_without_pyarrow(self, write, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"pip install 'matconvnet\[parquet\]'"):
            load_list(write("", "list.parquet"))
