"""The reading edition: the course as a static site, for everybody with a browser.

pages    notebooks and READMEs -> Markdown pages, figures beside them
moving   the numbers behind the figures that move
npm      what comes from npm: one font for formulas
conf     Sphinx's settings and what it does otherwise here
assets   style sheet, arithmetic and drawing of the moving figures
"""
