// Pickles: arrays are built, and nothing else.
#include "engine/data/pickle.h"
#include "tests/data/util.h"

static void expect_pickle(const char *bytes, size_t n, const char *says) {
    struct dr_pickle *k;
    struct dr_err err = {0};
    assert_int_equal(dr_pickle_read((const uint8_t *)bytes, n, &k, &err), DR_EFORMAT);
    assert_null(k);
    if (!strstr(err.msg, says))
        fail_msg("got '%s', expected '%s'", err.msg, says);
}
#define PICKLE(bytes, says) expect_pickle(bytes, sizeof bytes - 1, says)

static void pickles_build_arrays_and_nothing_else(void **state) {
    (void)state;
    PICKLE("cos\nsystem\n(S'echo hi'\ntR.", "asks for `os.system`");
    PICKLE("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02hi\x85R.", "asks for `posix.system`");
    PICKLE("\x80\x02"
           "cnumpy\nload\n.",
           "asks for `numpy.load`");
    PICKLE("(i__builtin__\neval\n.", "opcode 0x69 (i)");
    PICKLE("\x80\x02}\x81.", "opcode 0x81");
    PICKLE("\x80\x02\x82\x01.", "opcode 0x82");
    PICKLE("P1\n.", "opcode 0x50 (P)");
    PICKLE("\x80\x02K\x01K\x02"
           "Q.",
           "opcode 0x51 (Q)");
    PICKLE("\x80\x02K\x01K\x02R.", "REDUCE calls something that is no function of an array");
    PICKLE("\x80\x02K\x01)b.", "BUILD sets the state of something that is no array");
    PICKLE("\x80\x02"
           "cnumpy\nndarray\nK\0\x85R.",
           "no plain array");
    PICKLE("\x80\x02"
           "cnumpy\ndtype\nU\x01O\x85R.",
           "an array of `O`");
    PICKLE("\x80\x02"
           "cnumpy\ndtype\nU\x02\0\0\x85R.",
           "only integers are read");
    PICKLE("e.", "values without the container");
    PICKLE("h\x05.", "a memo that is not there");
    PICKLE("t.", "a container without its values");
    PICKLE(".", "it holds no value");
    PICKLE("", "it ends too early");
    struct dr_pickle *k;
    struct dr_err err;
    static const char good[] = "\x80\x02}(U\x01"
                               "aK\x07U\x01"
                               "b](J\xfe\xff\xff\xffM\x01\x02\x88NG\x3f\xf0\0\0\0\0\0\0eu.";
    assert_int_equal(dr_pickle_read((const uint8_t *)good, sizeof good - 1, &k, &err), 0);
    const struct dr_pk *root = dr_pickle_root(k), *b = dr_pk_get(k, root, "b");
    assert_int_equal(dr_pk_get(k, root, "a")->i, 7);
    assert_true(b->type == DR_PK_LIST && b->items == 5 && !dr_pk_get(k, root, "c"));
    assert_int_equal(dr_pk_at(k, b, 0)->i, -2);
    assert_int_equal(dr_pk_at(k, b, 1)->i, 513);
    assert_true(dr_pk_at(k, b, 4)->x == 1.0 && !dr_pk_at(k, b, 5));
    dr_pickle_free(k);
}

// As Python 3 writes arrays: from protocol 5 on by a call of numpy's, in its older and its newer
// place, and up to protocol 2 with texts for bytes.
#define U1 "K\3\x8c\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
#define DTYPE "\x8c\5numpy\x8c\5dtype\x93"
#define BUFFER(module, type, order)                                                                \
    module "\x8c\13_frombuffer\x93(\x96\6\0\0\0\0\0\0\0\1\xc8\3\xff\0\x80" DTYPE type              \
           "\x89\x88\x87R(" U1 "K\2K\3\x86" order "tR"
#define CORE "\x8c\22numpy.core.numeric"
#define CORE2 "\x8c\23numpy._core.numeric"
#define BYTE "\x8c\2u1"
#define ENCODE(n, text, codec) "c_codecs\nencode\nX" n "\0\0\0" text "X" codec "\x86R"
#define LATIN1 "\6\0\0\0latin1"
#define BUILT(bytes)                                                                               \
    "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" ENCODE(                       \
        "\1", "b", LATIN1) "\x87R(K\1K\2K\3\x86" DTYPE BYTE "\x89\x88\x87R(" U1 "\x89" bytes "tb"

static void expect_array(const char *bytes, size_t n) {
    static const uint8_t want[] = {1, 200, 3, 255, 0, 128};
    struct dr_pickle *k;
    struct dr_err err = {0};
    if (dr_pickle_read((const uint8_t *)bytes, n, &k, &err))
        fail_msg("%s", err.msg);
    const struct dr_pk *a = dr_pk_get(k, dr_pickle_root(k), "data");
    assert_true(a && a->type == DR_PK_ARRAY && a->ndim == 2 && a->kind == 'u' && a->width == 1);
    assert_true(a->dim[0] == 2 && a->dim[1] == 3 && a->n == sizeof want);
    assert_memory_equal(a->p, want, sizeof want);
    dr_pickle_free(k);
}
#define DATA(array) "\x80\2}U\4data" array "s."
#define ARRAY(array) expect_array(DATA(array), sizeof DATA(array) - 1)

static void pickles_of_python3(void **state) {
    (void)state;
    ARRAY(BUFFER(CORE, BYTE, "\x8c\1C"));
    ARRAY(BUFFER(CORE2, BYTE, "\x8c\1C"));
    ARRAY(BUILT(ENCODE("\11", "\1\xc3\x88\3\xc3\xbf\0\xc2\x80", LATIN1)));
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1F") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1K") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, BYTE, "") ".", "in another order than C's");
    PICKLE(BUFFER(CORE, "\x8c\2u2", "\x8c\1C") ".", "an array of 12 bytes holds 6");
    PICKLE(BUFFER(CORE, "\x8c\1O", "\x8c\1C") ".", "an array of `O`");
    PICKLE(BUFFER(CORE, BYTE, "\x8c\1C") "(tb.", "state of something that is no array");
    PICKLE(BUFFER("\x8c\13numpy.other", BYTE, "\x8c\1C") ".", "asks for `numpy.other._frombuffer`");
    PICKLE(CORE "\x8c\13_frombuffer\x93(K\5K\6K\7\x8c\1CtR.", "not shape, type and bytes");
    PICKLE(CORE "\x8c\13_frombuffer\x93)R.", "in another order than C's");
    PICKLE(ENCODE("\1", "b", "\4\0\0\0utf8") ".", "no text in latin1");
    PICKLE(ENCODE("\1", "b", "\3\0\0\0zip") ".", "no text in latin1");
    PICKLE(ENCODE("\2", "\xc4\x80", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE(ENCODE("\1", "\xc3", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE(ENCODE("\1", "\x80", LATIN1) ".", "characters that Latin-1 has not");
    PICKLE("c_codecs\nencode\n)R.", "no text in latin1");
    PICKLE("c__builtin__\nbytes\nK\1\x85R.", "`bytes` of something");
    static const char empty[] =
        "\x80\2}U\5labelc__builtin__\nbytes\n)RsU\4data" BUFFER(CORE, BYTE, "\x8c\1C") "s.";
    expect_array(empty, sizeof empty - 1);
    PICKLE("c_codecs\nencode\nK\1K\2\x86R.", "no text in latin1");
    PICKLE("c_codecs\ndecode\n.", "asks for `_codecs.decode`");
    // A text that is there once, asked for again and again.
    PICKLE("c_codecs\nencode\nq\1U\x20....:....|....:....|....:....|.."
           "U\6latin1\x86q\2Rh\1h\2Rh\1h\2Rh\1h\2R.",
           "it makes more bytes than it has");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pickles_build_arrays_and_nothing_else),
        cmocka_unit_test(pickles_of_python3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
