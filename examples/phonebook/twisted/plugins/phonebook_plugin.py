"""Offers the phonebook to impfed.  Neither ``twisted`` nor ``plugins`` may hold an ``__init__.py``."""

from impfed_phonebook import DirectoryMaker, RouteMaker

route = RouteMaker()
directory = DirectoryMaker()
