"""`run.html`: a run as one file that any browser shows, without a server and without a script."""

from matconvnet.train.page.document import PAGE_FILE, write_page

__all__ = ["PAGE_FILE", "write_page"]
