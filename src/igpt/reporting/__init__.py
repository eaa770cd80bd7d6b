"""Reports of runs: as one HTML file that needs no server and no network, and as a dashboard in W&B.

The charts of the file are drawn by the script of the page (`templates/page.js`) as SVG: one kind of chart is needed, in
which text and lines follow the page's colors and the keyboard works. The libraries on PyPI that could be bundled add 1
to 5 MB.
"""
