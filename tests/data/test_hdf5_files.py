"""Files whose texts would keep the HDF5 library for ever are refused, whoever reads them; sound ones are not."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_lab.contracts import DataError
from fusion_lab.data.array_files import ArrayPlace, read_features
from fusion_lab.data.hdf5_files import longest_text, open_hdf5
from fusion_lab.data.oncology.reading import read_embedded
from fusion_lab.data.oncology.settings import FileConfig
from fusion_lab.data.readers import read_table

READERS = {
    "table": lambda path: read_table(path.parent, path.name),
    "array": lambda path: read_features(path.parent, ArrayPlace(path.name, "embedding", "ids"), 2),
    "embedding": lambda path: read_embedded(path, "temporal", FileConfig()),
}


def written(folder: Path, rows: int = 4) -> Path:
    path = folder / "a.h5"
    with h5py.File(path, "w") as file:
        file["ids"] = [f"p{i}" for i in range(rows)]
        file["embedding"] = np.ones((rows, 2))
    return path


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("length", [0, 2**63, 2**64 - 16])
def test_a_text_of_no_length_does_not_keep_the_reader_for_ever(tmp_path, read, length):
    path = written(tmp_path)
    read(path)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(8) + length.to_bytes(8, "little")  # numbered 0, it is the space left
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        read(path)
    assert str(refused.value) == f"{path}: expected a readable HDF5 file, found damaged texts from byte {heap} on"


@settings(max_examples=20)
@given(st.lists(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=300)), max_size=4))
def test_sound_texts_are_read(tmp_path_factory, columns):
    """Of any length and number, those put in place of others included, which leave space in the heaps."""
    path = tmp_path_factory.mktemp("texts") / "a.h5"
    for name in ("x", "x"):
        with h5py.File(path, "a") as file:
            for number, words in enumerate(columns):
                file.pop(f"{name}{number}", None)
                file.create_dataset(f"{name}{number}", data=words[::-1], dtype=h5py.string_dtype())
    with open_hdf5(path) as file:
        for number, words in enumerate(columns):
            assert file[f"x{number}"].asstr()[()].tolist() == words[::-1]


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(5000)])
def test_what_is_no_hdf5_is_the_librarys_to_refuse(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(OSError):
        open_hdf5(tmp_path / "a.h5")


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_a_text_longer_than_the_file_is_refused_before_room_is_made_for_it(tmp_path, read):
    path, length = written(tmp_path), 2**32 - 2
    with h5py.File(path) as file:
        place = file["ids"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place + 16 : place + 20] = length.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"expected texts that fit the file, found one of {length} bytes"):
        read(path)


WORD = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=50)


@settings(max_examples=30)
@given(words=st.lists(WORD, min_size=1, max_size=30), chunk=st.sampled_from([None, 1, 4]))
def test_the_longest_text_is_that_of_the_file(tmp_path_factory, words, chunk):
    """Where it is not compressed."""
    path = tmp_path_factory.mktemp("longest") / "a.h5"
    chunks = chunk and (min(chunk, len(words)),)
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=words, dtype=h5py.string_dtype(), chunks=chunks)
        file.create_dataset("zipped", data=words, dtype=h5py.string_dtype(), compression="gzip")
    with open_hdf5(path) as file:
        assert longest_text(file["x"]) == max(len(word.encode()) for word in words)
        assert longest_text(file["zipped"]) == 0
