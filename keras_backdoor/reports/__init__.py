"""Reports of answers as HTML and Markdown with figures."""

from keras_backdoor.reports.page import Page, Section, write
from keras_backdoor.reports.sections import page_of

__all__ = ["Page", "Section", "page_of", "write"]
