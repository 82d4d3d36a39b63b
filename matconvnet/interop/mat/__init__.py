"""MATLAB's `.mat` files: versions 5, 7 and 7.3, read and written without MATLAB."""

from matconvnet.interop.mat.reader import read_mat as read_mat
from matconvnet.interop.mat.writer import write_mat as write_mat
