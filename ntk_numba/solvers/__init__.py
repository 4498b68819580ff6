"""Systems of equations with kernel matrices, their eigenvalues, and functions of them."""
