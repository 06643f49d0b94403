# The public headers' comments as Doxygen wants them; INPUT_FILTER of docs/Doxyfile. A comment that stands far to the
# right goes on describing the member of the line above.
1s|^// |/// @file\n/// |
s|^( {12,})//( )|\1///<\2|
s|^( *)//( \|$)|\1///\2|
s|([^ ]) +// |\1  ///< |
