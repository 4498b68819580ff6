"""Elementary functions of single numbers, in compiled code, to a relative error of about 1e-21.

Each reduces its argument until a short series is enough, whose last terms are so small that they
need no more than float64. Logarithms and arctangents take one step of Newton's method from values
in float64.
"""

import math

import numpy as np
from scipy import special

from ntk_numba.compiled.intrinsics import exponent_of, polynomial, power_of_two
from ntk_numba.compiled.policy import njit
from ntk_numba.extended.arithmetic import (
    Number,
    Pair,
    add_numbers,
    add_pairs,
    divide_numbers,
    divide_pairs,
    multiply_numbers,
    multiply_pairs,
    normal,
    ordered_sum,
    square_root,
    two_product,
)
from ntk_numba.extended.constants import (
    ANGLE_REACH,
    ANGLE_STEPS,
    ANGLES,
    EXPONENTIAL_REACH,
    EXPONENTIAL_STEPS,
    EXPONENTIALS,
    HALF_PI,
    LN2,
)

ONE = (1.0, 0.0, 0.0)
NONE = (0.0, 0.0, 0.0)
FARTHEST = 2.0**50  # larger |x| have an exponential that is 0 or infinite
LAST_ANGLE = 2.0**100  # of larger |x|, no digit of the angle is known: their sine counts as 0
PER_LN2, PER_HALF_PI = 1 / LN2[0], 1 / HALF_PI[0]
SHIFT = 1.5 * 2.0**52  # see `power_of_two`

# Highest powers first: (e^s − 1 − s − s²/2)/s³, (sin s − s)/s³ and (cos s − 1 + s²/2)/s⁴ in s², and
# arctanh(f)/f and arctan(t)/t in the squares
_exponential_rest = polynomial(tuple(1 / math.factorial(n) for n in range(10, 2, -1)))
_sine_rest = polynomial(tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(5, 0, -1)))
_cosine_rest = polynomial(tuple((-1) ** k / math.factorial(2 * k) for k in range(6, 1, -1)))
_area_tangent = polynomial(tuple(1 / (2 * k + 1) for k in range(9, -1, -1)))
_arc_tangent = polynomial(tuple((-1) ** k / (2 * k + 1) for k in range(9, -1, -1)))


@njit
def _near_exponential(r: float, r_low: float) -> tuple[float, float, float, float]:
    """Return e^r and e^r − 1 as pairs for |r| ≤ 0.36, both relatively accurate."""
    j = np.rint(r * EXPONENTIAL_STEPS)
    s, s_low = ordered_sum(r - j / EXPONENTIAL_STEPS, r_low)
    square, square_low = multiply_pairs(s, s_low, s, s_low)
    rest = s * square * _exponential_rest(s)
    m, m_low = add_pairs(s, s_low, 0.5 * square, 0.5 * square_low)
    m, m_low = add_pairs(m, m_low, rest, 0.0)  # e^s − 1
    at = int(j) + EXPONENTIAL_REACH
    t, t_low = EXPONENTIALS[0, at], EXPONENTIALS[1, at]
    p, p_low = multiply_pairs(t, t_low, m, m_low)
    whole, whole_low = add_pairs(t, t_low, p, p_low)
    less, less_low = add_pairs(EXPONENTIALS[2, at], EXPONENTIALS[3, at], p, p_low)
    return whole, whole_low, less, less_low


@njit
def _both_exponentials(a: Number) -> tuple[Number, Number]:
    """Return e^x and e^x − 1."""
    x, x_low, k = a
    if k < 0:
        return ONE, a
    if k > 0 or not abs(x) < FARTHEST:
        top = (x if x > 0 else (0.0 if x < 0 else x), 0.0, 0.0)
        top = (math.inf, 0.0, 0.0) if x > 0 else top
        return top, add_numbers(top, (-1.0, 0.0, 0.0))
    n = np.rint(x * PER_LN2)
    p, rest = two_product(n, LN2[0])
    r, r_low = add_pairs(x, x_low, -p, -(rest + n * LN2[1]))
    whole, whole_low, less, less_low = _near_exponential(r, r_low)
    k = np.rint(n / 512)
    scale = power_of_two((n - 512 * k) + SHIFT)
    value = normal(whole * scale, whole_low * scale, k)
    if n == 0:
        return value, normal(less, less_low, 0.0)
    return value, add_numbers(value, (-1.0, 0.0, 0.0))


@njit
def exponential(a: Number) -> Number:
    """Return e^x."""
    return _both_exponentials(a)[0]


@njit
def exponential_minus_one(a: Number) -> Number:
    """Return e^x − 1, relatively accurate near 0."""
    return _both_exponentials(a)[1]


@njit
def _near_logarithm(x: float, x_low: float) -> Pair:
    """Return ln(1 + x) for 1 + x from √½ to √2."""
    f = x / (2 + x)
    y = 2 * f * _area_tangent(f * f)
    _, _, e, e_low = _near_exponential(-y, 0.0)
    # u = (1 + x) e^−y − 1
    p, p_low = multiply_pairs(x, x_low, e, e_low)
    u, u_low = add_pairs(x, x_low, e, e_low)
    u, u_low = add_pairs(u, u_low, p, p_low)
    u, u_low = add_pairs(u, u_low, -0.5 * u * u, 0.0)
    return add_pairs(y, 0.0, u, u_low)


@njit
def _times_ln2(n: float) -> Pair:
    """Return n ln 2 for a whole number n."""
    return multiply_pairs(n, 0.0, LN2[0], LN2[1])


@njit
def logarithm(a: Number) -> Number:
    """Return ln x."""
    x, x_low, k = a
    if not 0 < x < math.inf:
        return (x if x > 0 else (-math.inf if x == 0 else math.nan), 0.0, 0.0)
    n = exponent_of(x * math.sqrt(2.0))
    scale = power_of_two(SHIFT - n)
    m, m_low = ordered_sum(x * scale - 1, x_low * scale)
    y, y_low = _near_logarithm(m, m_low)
    of_two, of_two_low = _times_ln2(n + 512 * k)
    y, y_low = add_pairs(of_two, of_two_low, y, y_low)
    return normal(y, y_low, 0.0)


@njit
def logarithm_of_one_plus(a: Number) -> Number:
    """Return ln(1 + x), relatively accurate near 0."""
    x, x_low, k = a
    if k < 0 or x == 0:
        return a
    if k == 0 and -0.29 < x < 0.41:
        y, y_low = _near_logarithm(x, x_low)
        return normal(y, y_low, 0.0)
    return logarithm(add_numbers(a, ONE))


@njit
def _near_sine_and_cosine(r: float, r_low: float) -> tuple[float, float, float, float]:
    """Return sin r and cos r as pairs for |r| ≤ 0.8, sin r relatively accurate."""
    j = np.rint(r * ANGLE_STEPS)
    s, s_low = ordered_sum(r - j / ANGLE_STEPS, r_low)
    square, square_low = multiply_pairs(s, s_low, s, s_low)
    sine, sine_low = add_pairs(s, s_low, s * square * _sine_rest(square), 0.0)
    less, less_low = add_pairs(
        -0.5 * square, -0.5 * square_low, square * square * _cosine_rest(square), 0.0
    )
    at = int(j) + ANGLE_REACH
    t, t_low, c, c_low = ANGLES[0, at], ANGLES[1, at], ANGLES[2, at], ANGLES[3, at]
    p, p_low = multiply_pairs(t, t_low, less, less_low)
    q, q_low = multiply_pairs(c, c_low, sine, sine_low)
    p, p_low = add_pairs(p, p_low, q, q_low)
    of_sine, of_sine_low = add_pairs(t, t_low, p, p_low)
    p, p_low = multiply_pairs(c, c_low, less, less_low)
    q, q_low = multiply_pairs(t, t_low, sine, sine_low)
    p, p_low = add_pairs(p, p_low, -q, -q_low)
    p, p_low = add_pairs(c, c_low, p, p_low)
    return of_sine, of_sine_low, p, p_low


@njit
def _sine_and_cosine(a: Number) -> tuple[Number, Number]:
    """Return sin x and cos x, with an error of 1e-32 |x| in addition."""
    x, x_low, k = a
    if k < 0:
        return a, ONE
    if k > 0 or not abs(x) < LAST_ANGLE:
        nothing = 0.0 if abs(x) < math.inf else math.nan
        return (nothing, 0.0, 0.0), (1.0 + nothing, 0.0, 0.0)
    r, r_low, quarter = x, x_low, 0.0
    for _ in range(2):  # the second time, for the rounding of a large n
        n = np.rint(r * PER_HALF_PI)
        p, rest = two_product(n, HALF_PI[0])
        r, r_low = add_pairs(r, r_low, -p, -(rest + n * HALF_PI[1]))
        quarter += n - 4 * np.floor(n / 4)
    s, s_low, c, c_low = _near_sine_and_cosine(r, r_low)
    quarter -= 4 * np.floor(quarter / 4)
    if quarter == 1 or quarter == 3:
        s, s_low, c, c_low = c, c_low, -s, -s_low
    sign = -1.0 if quarter >= 2 else 1.0
    return normal(sign * s, sign * s_low, 0.0), normal(sign * c, sign * c_low, 0.0)


@njit
def sine(a: Number) -> Number:
    """Return sin x."""
    return _sine_and_cosine(a)[0]


@njit
def cosine(a: Number) -> Number:
    """Return cos x."""
    return _sine_and_cosine(a)[1]


@njit
def _near_arctangent(x: float, x_low: float) -> Pair:
    """Return arctan x for |x| ≤ 1."""
    t = x / (1 + math.sqrt(1 + x * x))
    t = t / (1 + math.sqrt(1 + t * t))
    y = 4 * t * _arc_tangent(t * t)
    s, s_low, c, c_low = _near_sine_and_cosine(y, 0.0)
    p, p_low = multiply_pairs(x, x_low, c, c_low)
    top, top_low = add_pairs(p, p_low, -s, -s_low)
    p, p_low = multiply_pairs(x, x_low, s, s_low)
    bottom, bottom_low = add_pairs(c, c_low, p, p_low)
    u, u_low = divide_pairs(top, top_low, bottom, bottom_low)
    return add_pairs(y, 0.0, u, u_low)


@njit
def arctangent(a: Number) -> Number:
    """Return arctan x."""
    x, x_low, k = a
    if k < 0 or x != x:
        return a
    if k == 0 and abs(x) <= 1:
        y, y_low = _near_arctangent(x, x_low)
        return normal(y, y_low, 0.0)
    inverse, inverse_low, k = divide_numbers(ONE, a)
    y, y_low = (0.0, 0.0) if k < 0 else _near_arctangent(inverse, inverse_low)
    sign = 1.0 if x > 0 else -1.0
    y, y_low = add_pairs(sign * HALF_PI[0], sign * HALF_PI[1], -y, -y_low)
    return normal(y, y_low, 0.0)


@njit
def arcsine(a: Number) -> Number:
    """Return arcsin x."""
    minus = (-a[0], -a[1], a[2])
    bottom = square_root(multiply_numbers(add_numbers(ONE, a), add_numbers(ONE, minus)))
    return arctangent(divide_numbers(a, bottom))


@njit
def _negative_size(a: Number) -> Number:
    """Return −|x|."""
    return (-a[0], -a[1], a[2]) if a[0] > 0 else a


@njit
def _with_sign(of: Number, size: Number) -> Number:
    """Return a number, negated if the other is negative."""
    return (-size[0], -size[1], size[2]) if of[0] < 0 else size


@njit
def hyperbolic_tangent(a: Number) -> Number:
    """Return tanh x."""
    twice = multiply_numbers(_negative_size(a), (2.0, 0.0, 0.0))
    e, e_low, k = exponential_minus_one(twice)
    size = divide_numbers((-e, -e_low, k), add_numbers((2.0, 0.0, 0.0), (e, e_low, k)))
    return _with_sign(a, size)


@njit
def hyperbolic_sine(a: Number) -> Number:
    """Return sinh x."""
    size, size_low, k = _negative_size(a)
    e = exponential_minus_one((-size, -size_low, k))
    twice = add_numbers(e, divide_numbers(e, add_numbers(e, ONE)))
    return _with_sign(a, multiply_numbers(twice, (0.5, 0.0, 0.0)))


@njit
def hyperbolic_cosine(a: Number) -> Number:
    """Return cosh x."""
    size, size_low, k = _negative_size(a)
    e = exponential((-size, -size_low, k))
    return multiply_numbers(add_numbers(e, divide_numbers(ONE, e)), (0.5, 0.0, 0.0))


@njit
def logistic(a: Number) -> Number:
    """Return 1/(1 + e^−x)."""
    e = exponential(_negative_size(a))
    return divide_numbers(e if a[0] < 0 else ONE, add_numbers(ONE, e))


BY_UFUNC = {
    np.exp: exponential,
    np.expm1: exponential_minus_one,
    np.log: logarithm,
    np.log1p: logarithm_of_one_plus,
    np.sin: sine,
    np.cos: cosine,
    np.arctan: arctangent,
    np.arcsin: arcsine,
    np.sinh: hyperbolic_sine,
    np.cosh: hyperbolic_cosine,
    np.tanh: hyperbolic_tangent,
    special.expit: logistic,
}
"""The functions of this file by NumPy's and SciPy's functions of arrays."""
