/* The inner part of obsray/telemetry/spine.py: records packed into the current segment of a ring.

   A Writer knows the segment that is written and the number of the next record; a Recorder packs the records of one
   event. Everything else (opening segments, full disks, dropping) is Ring.place in Python, which is asked whenever a
   record does not belong into the current segment. The interpreter's lock is held from taking a number until the
   record is written, so a record is whole or not there, and its sequence field is the last to be written.

   Compiled where there is a compiler; without it the ring packs its records in Python, byte for byte the same. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if PY_BIG_ENDIAN
#error "records are little-endian"
#endif

enum { RECORD_BYTES = 128, KIND_AT = 8, SEQUENCE_AT = 124, NOW_SLOT_BYTES = 64, TOLD_AT = 32, RUNNING_AT = 30 };
enum { FIELDS_MAX = 64 };

/* --- Writer: which segment is written, and what is the next number ---------------------------------------------- */

/* A record on its way to another segment than the current one, on the stack of the thread that writes it. */
typedef struct Placing {
    uint64_t number;
    struct Placing *next;
} Placing;

typedef struct {
    PyObject_HEAD
    Placing *placing;
    PyObject *place; /* place(number) -> (buffer, offset), for what is not in the current segment */
    Py_buffer segment;
    Py_buffer now;
    int64_t base; /* below 0 where a process begins on a full disk */
    uint64_t next;
} Writer;

static int writer_traverse(Writer *self, visitproc visit, void *arg) {
    Py_VISIT(self->place);
    return 0;
}

static int writer_clear(Writer *self) {
    Py_CLEAR(self->place);
    if (self->segment.obj != NULL) PyBuffer_Release(&self->segment);
    if (self->now.obj != NULL) PyBuffer_Release(&self->now);
    /* Who is asked after this has no room. */
    self->segment.len = self->now.len = 0;
    return 0;
}

static void writer_dealloc(Writer *self) {
    PyObject_GC_UnTrack(self);
    writer_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int writer_init(Writer *self, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"place", "now", NULL};
    PyObject *place, *now;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:Writer", names, &place, &now)) return -1;
    if (self->place != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a Writer is made once");
        return -1;
    }
    if (PyObject_GetBuffer(now, &self->now, PyBUF_WRITABLE) < 0) return -1;
    self->place = Py_NewRef(place);
    return 0;
}

static PyObject *writer_aim(Writer *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "aim(buffer, base)");
        return NULL;
    }
    int64_t base = PyLong_AsLongLong(args[1]);
    if (base == -1 && PyErr_Occurred()) return NULL;
    Py_buffer segment;
    if (PyObject_GetBuffer(args[0], &segment, PyBUF_WRITABLE) < 0) return NULL;
    if (self->segment.obj != NULL) PyBuffer_Release(&self->segment);
    self->segment = segment;
    self->base = base;
    Py_RETURN_NONE;
}

static PyObject *writer_take(Writer *self, PyObject *ignored) { return PyLong_FromUnsignedLongLong(self->next++); }

static PyObject *writer_taken(Writer *self, PyObject *ignored) { return PyLong_FromUnsignedLongLong(self->next); }

static PyObject *writer_oldest(Writer *self, PyObject *ignored) {
    uint64_t oldest = self->next;
    for (Placing *one = self->placing; one != NULL; one = one->next)
        if (one->number < oldest) oldest = one->number;
    return PyLong_FromUnsignedLongLong(oldest);
}

static char *now_slot(Writer *self, PyObject *number) {
    Py_ssize_t slot = PyLong_AsSsize_t(number);
    if (slot == -1 && PyErr_Occurred()) return NULL;
    /* What lies behind the slots is not for those who run something. */
    if (self->now.obj == NULL || slot < 0 || slot >= self->now.len / NOW_SLOT_BYTES - 1) {
        PyErr_SetString(PyExc_IndexError, "there is no such slot");
        return NULL;
    }
    return (char *)self->now.buf + slot * NOW_SLOT_BYTES;
}

static inline int unsigned_of(PyObject *value, uint64_t most, uint64_t *found) {
    if (PyLong_Check(value)) {
        *found = PyLong_AsUnsignedLongLong(value);
    } else { /* of numpy, say */
        PyObject *index = PyNumber_Index(value);
        if (index == NULL) return -1;
        *found = PyLong_AsUnsignedLongLong(index);
        Py_DECREF(index);
    }
    if (*found == (uint64_t)-1 && PyErr_Occurred()) return -1;
    if (*found > most) {
        PyErr_Format(PyExc_OverflowError, "%R is more than fits in its field", value);
        return -1;
    }
    return 0;
}

static int bytes_of(PyObject *value, char *target, Py_ssize_t size) {
    const char *data;
    Py_ssize_t length;
    if (PyBytes_Check(value)) {
        data = PyBytes_AS_STRING(value), length = PyBytes_GET_SIZE(value);
    } else if (PyByteArray_Check(value)) {
        data = PyByteArray_AS_STRING(value), length = PyByteArray_GET_SIZE(value);
    } else {
        PyErr_Format(PyExc_TypeError, "bytes are needed, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
    /* Sizes that the compiler knows are copied without a call. */
    if (length == 16 && size == 16) {
        memcpy(target, data, 16);
    } else if (length == 8 && size == 8) {
        memcpy(target, data, 8);
    } else if (length >= size) {
        memcpy(target, data, size);
    } else {
        memcpy(target, data, length);
        memset(target + length, 0, size - length);
    }
    return 0;
}

static PyObject *writer_running(Writer *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "running(slot, task, started_at, name, attempt)");
        return NULL;
    }
    char *slot = now_slot(self, args[0]), packed[31];
    uint64_t started_at, name, attempt;
    if (slot == NULL || bytes_of(args[1], packed, 16) < 0 || unsigned_of(args[2], UINT64_MAX, &started_at) < 0 ||
        unsigned_of(args[3], UINT32_MAX, &name) < 0 || unsigned_of(args[4], UINT16_MAX, &attempt) < 0)
        return NULL;
    memcpy(packed + 16, &started_at, 8);
    memcpy(packed + 24, &name, 4);
    memcpy(packed + 28, &attempt, 2);
    packed[RUNNING_AT] = 1;
    memcpy(slot, packed, sizeof packed);
    Py_RETURN_NONE;
}

static PyObject *writer_told(Writer *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "told(slot, started_at)");
        return NULL;
    }
    char *slot = now_slot(self, args[0]);
    uint64_t started_at;
    if (slot == NULL || unsigned_of(args[1], UINT64_MAX, &started_at) < 0) return NULL;
    memcpy(slot + TOLD_AT, &started_at, 8);
    Py_RETURN_NONE;
}

static PyObject *writer_idle(Writer *self, PyObject *number) {
    char *slot = now_slot(self, number);
    if (slot == NULL) return NULL;
    slot[RUNNING_AT] = 0;
    Py_RETURN_NONE;
}

static PyMethodDef writer_methods[] = {
    {"aim", (PyCFunction)(void (*)(void))writer_aim, METH_FASTCALL, "aim(buffer, base): where records go from now on"},
    {"take", (PyCFunction)writer_take, METH_NOARGS, "take(): reserve the next number"},
    {"taken", (PyCFunction)writer_taken, METH_NOARGS, "taken(): how many numbers are reserved"},
    {"oldest", (PyCFunction)writer_oldest, METH_NOARGS, "oldest(): no record before this number is still to be placed"},
    {"running", (PyCFunction)(void (*)(void))writer_running, METH_FASTCALL, "as Ring.running"},
    {"told", (PyCFunction)(void (*)(void))writer_told, METH_FASTCALL, "as Ring.told"},
    {"idle", (PyCFunction)writer_idle, METH_O, "as Ring.idle"},
    {NULL},
};

static PyTypeObject WriterType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "obsray.telemetry._record_writer.Writer",
    .tp_basicsize = sizeof(Writer),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_doc = "Writer(place, now): the current segment of one ring",
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)writer_init,
    .tp_dealloc = (destructor)writer_dealloc,
    .tp_traverse = (traverseproc)writer_traverse,
    .tp_clear = (inquiry)writer_clear,
    .tp_methods = writer_methods,
};

/* --- Recorder: the records of one event -------------------------------------------------------------------------- */

typedef struct {
    char code; /* of the struct module: s B H I Q i f d */
    unsigned char offset, size;
} Field;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    Writer *writer;
    PyObject *names; /* of the arguments: time_ns, then the fields */
    uint16_t kind;
    Py_ssize_t count;
    Field fields[FIELDS_MAX];
} Recorder;

static int recorder_traverse(Recorder *self, visitproc visit, void *arg) {
    Py_VISIT(self->writer);
    Py_VISIT(self->names);
    return 0;
}

static int recorder_clear(Recorder *self) {
    Py_CLEAR(self->writer);
    Py_CLEAR(self->names);
    return 0;
}

static void recorder_dealloc(Recorder *self) {
    PyObject_GC_UnTrack(self);
    recorder_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* One field of a record. Fails before a number is taken, so that what cannot be packed leaves no hole. */
static int pack(const Field *field, PyObject *value, char *record) {
    char *target = record + field->offset;
    uint64_t number;
    switch (field->code) {
    case 's':
        return bytes_of(value, target, field->size);
    case 'B':
        if (unsigned_of(value, UINT8_MAX, &number) < 0) return -1;
        *target = (char)number;
        return 0;
    case 'H':
        if (unsigned_of(value, UINT16_MAX, &number) < 0) return -1;
        memcpy(target, &number, 2);
        return 0;
    case 'I':
        if (unsigned_of(value, UINT32_MAX, &number) < 0) return -1;
        memcpy(target, &number, 4);
        return 0;
    case 'Q':
        if (unsigned_of(value, UINT64_MAX, &number) < 0) return -1;
        memcpy(target, &number, 8);
        return 0;
    case 'i': {
        int overflow;
        long found = PyLong_AsLongAndOverflow(value, &overflow);
        if (found == -1 && PyErr_Occurred()) return -1;
        if (overflow || found < INT32_MIN || found > INT32_MAX) {
            PyErr_Format(PyExc_OverflowError, "%R is more than fits in its field", value);
            return -1;
        }
        int32_t narrow = (int32_t)found;
        memcpy(target, &narrow, 4);
        return 0;
    }
    case 'f':
    case 'd': {
        double found = PyFloat_CheckExact(value) ? PyFloat_AS_DOUBLE(value) : PyFloat_AsDouble(value);
        if (found == -1.0 && PyErr_Occurred()) return -1;
        if (field->code == 'd') {
            memcpy(target, &found, 8);
        } else {
            float narrow = (float)found;
            memcpy(target, &narrow, 4);
        }
        return 0;
    }
    default:
        PyErr_SetString(PyExc_SystemError, "a field of an unknown type");
        return -1;
    }
}

/* The sequence comes last: a reader takes a record for whole once it is there. */
static void put(char *slot, char *record, uint64_t number) {
    memcpy(slot, record, SEQUENCE_AT);
    __atomic_store_n((uint32_t *)(slot + SEQUENCE_AT), (uint32_t)(number + 1), __ATOMIC_RELEASE);
}

static int put_elsewhere(Writer *writer, char *record, uint64_t number) {
    PyObject *buffer;
    Py_ssize_t offset;
    Py_buffer target;
    int result = -1;
    if (writer->place == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the ring is gone");
        return -1;
    }
    Placing here = {number, writer->placing};
    writer->placing = &here;
    PyObject *given = PyLong_FromUnsignedLongLong(number);
    PyObject *place = given == NULL ? NULL : PyObject_CallOneArg(writer->place, given);
    Py_XDECREF(given);
    if (place != NULL && PyArg_ParseTuple(place, "On:place", &buffer, &offset) && PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE) == 0) {
        if (offset >= 0 && offset + RECORD_BYTES <= target.len) {
            put((char *)target.buf + offset, record, number);
            result = 0;
        } else {
            PyErr_SetString(PyExc_IndexError, "a record beyond its segment");
        }
        PyBuffer_Release(&target);
    }
    Placing **link = &writer->placing;
    while (*link != &here) link = &(*link)->next;
    *link = here.next;
    Py_XDECREF(place);
    return result;
}

/* Arguments by name, in the order of the fields. Borrowed references. */
static int ordered(Recorder *self, PyObject *const *args, Py_ssize_t given, PyObject *names, PyObject **found) {
    Py_ssize_t wanted = self->count + 1, named = PyTuple_GET_SIZE(names);
    memset(found, 0, sizeof(PyObject *) * wanted);
    for (Py_ssize_t at = 0; at < given; at++) found[at] = args[at];
    for (Py_ssize_t at = 0; at < named; at++) {
        PyObject *name = PyTuple_GET_ITEM(names, at);
        Py_ssize_t position = PySequence_Index(self->names, name);
        if (position < 0 || found[position] != NULL) {
            PyErr_Format(PyExc_TypeError, "unknown or repeated argument %R", name);
            return -1;
        }
        found[position] = args[given + at];
    }
    for (Py_ssize_t at = 0; at < wanted; at++)
        if (found[at] == NULL) {
            PyErr_Format(PyExc_TypeError, "argument %R is missing", PyTuple_GET_ITEM(self->names, at));
            return -1;
        }
    return 0;
}

static PyObject *record(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *names) {
    Recorder *self = (Recorder *)callable;
    Writer *writer = self->writer;
    PyObject *in_order[FIELDS_MAX + 1];
    Py_ssize_t given = PyVectorcall_NARGS(nargsf), wanted = self->count + 1;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (writer == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the ring is gone");
        return NULL;
    }
    if (given + named != wanted) {
        PyErr_Format(PyExc_TypeError, "%zd arguments are needed %R, %zd were given", wanted, self->names, given + named);
        return NULL;
    }
    if (named) {
        if (ordered(self, args, given, names, in_order) < 0) return NULL;
        args = in_order;
    }
    _Alignas(8) char packed[RECORD_BYTES] = {0};
    uint64_t time_ns;
    if (unsigned_of(args[0], UINT64_MAX, &time_ns) < 0) return NULL;
    memcpy(packed, &time_ns, 8);
    memcpy(packed + KIND_AT, &self->kind, 2);
    for (Py_ssize_t at = 0; at < self->count; at++)
        if (pack(&self->fields[at], args[at + 1], packed) < 0) return NULL;
    uint64_t number = writer->next++;
    int64_t slot = (int64_t)number - writer->base;
    if (slot >= 0 && slot < writer->segment.len / RECORD_BYTES) {
        put((char *)writer->segment.buf + slot * RECORD_BYTES, packed, number);
    } else if (put_elsewhere(writer, packed, number) < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *recorder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    Writer *writer;
    PyObject *fields;
    unsigned short kind;
    if (!PyArg_ParseTuple(args, "O!HO!:Recorder", &WriterType, &writer, &kind, &PyTuple_Type, &fields)) return NULL;
    Py_ssize_t count = PyTuple_GET_SIZE(fields);
    if (count > FIELDS_MAX) {
        PyErr_SetString(PyExc_ValueError, "too many fields");
        return NULL;
    }
    Recorder *self = (Recorder *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->writer = (Writer *)Py_NewRef(writer);
    self->names = PyTuple_New(count + 1);
    PyObject *first = PyUnicode_InternFromString("time_ns");
    if (self->names == NULL || first == NULL) {
        Py_XDECREF(first);
        goto failed;
    }
    PyTuple_SET_ITEM(self->names, 0, first);
    for (Py_ssize_t at = 0; at < count; at++) PyTuple_SET_ITEM(self->names, at + 1, Py_NewRef(Py_None));
    for (Py_ssize_t at = 0; at < count; at++) {
        PyObject *name;
        int code;
        unsigned char offset, size;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(fields, at), "UCbb:field", &name, &code, &offset, &size)) goto failed;
        if (offset + size > SEQUENCE_AT || (code != 's' && size > 8)) {
            PyErr_SetString(PyExc_ValueError, "a field beyond its record");
            goto failed;
        }
        self->fields[at] = (Field){(char)code, offset, size};
        Py_SETREF(((PyTupleObject *)self->names)->ob_item[at + 1], Py_NewRef(name));
    }
    self->kind = kind;
    self->count = count;
    self->call = record;
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static PyTypeObject RecorderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "obsray.telemetry._record_writer.Recorder",
    .tp_basicsize = sizeof(Recorder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_doc = "Recorder(writer, kind, ((name, code, offset, size), ...)): called with time_ns and the fields",
    .tp_new = recorder_new,
    .tp_dealloc = (destructor)recorder_dealloc,
    .tp_traverse = (traverseproc)recorder_traverse,
    .tp_clear = (inquiry)recorder_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Recorder, call),
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "obsray.telemetry._record_writer",
    .m_doc = "Records packed into the segments of a ring.", .m_size = -1,
};

PyMODINIT_FUNC PyInit__record_writer(void) {
    if (PyType_Ready(&WriterType) < 0 || PyType_Ready(&RecorderType) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    if (PyModule_AddObjectRef(made, "Writer", (PyObject *)&WriterType) < 0 ||
        PyModule_AddObjectRef(made, "Recorder", (PyObject *)&RecorderType) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
