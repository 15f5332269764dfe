"""Cubes that are cut off, or are something else, are told by the length that their header promises."""

import io

import numpy as np
import pytest
import xarray as xr

import hops
from hops.cube import write_cube
from hops.netcdf import whole_length


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("cube") / "cube.nc"
    write_cube(hops.sweep_cube("schedule=1f1b,zb", "pp=2", "microbatches=4", "draws=5"), path)
    return path.read_bytes()


def test_open_cube__notices_a_cut_at_any_byte(whole, tmp_path):
    path = tmp_path / "cube.nc"
    path.write_bytes(whole)
    assert hops.open_cube(path).sizes["schedule"] == 2
    lengths = [*range(64), *range(64, len(whole) - 64, 97), *range(len(whole) - 64, len(whole))]
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cube.nc is not a readable netCDF file: it"):
            hops.open_cube(path)
    path.write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=rf"it has {len(whole) - 3} bytes, and whole it has {len(whole)} \(was a copy"):
        hops.open_cube(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=f"it has {len(whole) + 1} bytes, and whole it has {len(whole)}"):
        hops.open_cube(path)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "float32", "float64", "bool", "S3"])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7)])
def test_whole_length__is_that_of_the_file(tmp_path, dtype, shape):
    dims = ["x", "y"][: len(shape)]
    made = xr.Dataset({"a": (dims, np.ones(shape, dtype), {"units": "s", "n": 3})}, attrs={"title": "odd"})
    made.to_netcdf(tmp_path / "a.nc", engine="scipy")
    data = (tmp_path / "a.nc").read_bytes()
    assert whole_length(io.BytesIO(data)) == len(data)


def test_whole_length__of_a_file_without_variables_is_its_header(tmp_path):
    xr.Dataset(attrs={"title": "nothing"}).to_netcdf(tmp_path / "a.nc", engine="scipy")
    data = (tmp_path / "a.nc").read_bytes()
    assert whole_length(io.BytesIO(data)) == len(data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it does not begin as netCDF 3 does"),
        (b"\x89HDF\r\n\x1a\n", "it does not begin as netCDF 3 does"),
        (b"CDF\x02", "its header is cut off"),
        (b"CDF\x02\0\0\0\x05", "it has records"),
        (b"CDF\x02" + 4 * b"\0" + b"\0\0\0\x63\0\0\0\x01", "its header is not that of netCDF 3"),
    ],
)
def test_whole_length__refuses_what_is_none(data, sentence):
    with pytest.raises(ValueError, match=sentence):
        whole_length(io.BytesIO(data))
