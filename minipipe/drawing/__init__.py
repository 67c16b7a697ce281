"""Pictures of runs as text, SVG and HTML; one set of pictures for terminal, report page and notebook. Standard library only."""
