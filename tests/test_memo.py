"""What is remembered goes when it takes too much room, the longest unused first."""

from hops.memo import remembered


def test_remembered__until_it_takes_too_many_bytes():
    made = []

    @remembered(10, len)
    def words(n, letter="x"):
        made.append(n)
        return letter * n

    assert [words(4), words(5), words(4)] == ["xxxx", "xxxxx", "xxxx"]
    assert made == [4, 5]
    words(3)  # 5 was asked for longest ago
    words(4)
    words(3)
    assert made == [4, 5, 3]
    words(5)
    assert made == [4, 5, 3, 5]
    assert words(4, letter="y") == "yyyy"


def test_remembered__the_last_one_however_large():
    made = []

    @remembered(1, len)
    def words(n):
        made.append(n)
        return "x" * n

    for n in (9, 9, 8, 8):
        words(n)
    assert made == [9, 8]
