namespace weft::transport {}
