"""Tables of annotation tools that can be read in several ways, or in none: errors that say why."""

import pytest

from psl_jax.corpora.annotations.read_annotations import read_annotations
from psl_jax.corpora.annotations.table_events import Hints
from psl_jax.runtime.errors import UserError

HEAD = "filename,onset,offset,label\n"
RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"

# A table's name, by default e.csv, what it holds, and what is said.
REFUSED = {
    "times in samples": (
        "filename,start_sample,end_sample,label\na,16000,32000,dog",
        "row 1: times in a unit or a column that is not read, in .'start_sample', 'end_sample'.",
    ),
    "several annotation columns": (
        "a.Table.1.txt",
        f"{RAVEN}\tSpecies\tCall\n1\tS 1\t1\t1\t2\t0\t9\tdog\tbark",
        "which column holds the labels, Species, Call",
    ),
    "views that disagree": (
        "a.Table.1.txt",
        f"{RAVEN}\tCall\n1\tW 1\t1\t1\t2\t0\t9\tdog\n1\tS 1\t1\t1\t2\t0\t9\tcat",
        "row 3: selection 1 is called 'dog' and 'cat'",
    ),
    "several files without File Offset": (
        "all.txt",
        f"{RAVEN}\tBegin File\tCall\n1\tS 1\t1\t1\t2\t0\t9\ta.wav\tdog\n"
        "2\tS 1\t1\t70\t72\t0\t9\tb.wav\tdog",
        "over 2 files.*File Offset",
    ),
    "a label track of no recording": ("b.txt", "0.5\t1.0\tdog\n", "none is called as the table"),
    "a table of another recording": ("a_2.txt", "0.5\t1.0\tdog\n", "none is called as the table"),
    "a layer of Sonic Visualiser": ("a.txt", "0.123456789\t0.5\tdog\n", "row 1: .*Sonic Vis"),
    "values, not ends": ("a.txt", "0\t1\tdog\n7.5\t1.0\tdog\n", "row 2: an event from 7.5 to 1"),
    "both decimal signs": (
        "filename;onset;offset;label\na;0,5;1.500;dog\n",
        "row 2 has '0,5' and row 2 '1.500'",
    ),
    "thousands or one and a half": (
        f'{HEAD}a,"1,500","2,250",dog\n',
        "row 2: is '1,500' one and a half",
    ),
    "decimal commas that are separators, too": (
        f"{HEAD}a,0,5,1,5,dog\n",
        "row 2: more cells than the 4 columns",
    ),
    "a unit of the onset alone": (
        "filename,onset_ms,duration,label\na,500,600,dog\n",
        "row 1: milliseconds and times without a unit, in onset_ms, duration",
    ),
    "a minute of 75 seconds": (f"{HEAD}a,0:75,0:80,dog\n", "row 2: '0:75' is no time"),
    "no time": (f"{HEAD}a,soon,2,dog\n", "row 2: 'soon' is no time"),
    "a label without times": (f"{HEAD}a,,,dog\n", "row 2: 'dog' wi"),
    "no header": ("a.wav,0.5,1.0,dog\n", "row 1: no column of labels"),
    "onset and nothing else": ("filename,onset,label\na,1,dog\n", "an onset without"),
    "times in columns of other names": (
        "filename,label,t0,t1\na,dog,1.5,2.5\na,cat,3.5,4.5\n",
        "no onset and offset, but several rows a file",
    ),
    "times in columns of other names, one row a file": (
        "filename,label,from,to\na,dog,1.5,2.5\n",
        "times in a unit or a column that is not read, in .'from', 'to'.",
    ),
    "clock times in columns of Spanish names": (
        "filename,label,inicio,fin\na,dog,0:01.5,0:02.5\n",
        "times in a unit or a column that is not read, in .'inicio', 'fin'.",
    ),
    "a class that is said to be absent": (
        "e.tsv",
        "filename\tonset\toffset\tlabel\tpresent\na\t0\t1\tdog\tNOT_PRESENT\n",
        "row 2: present is 'NOT_PRESENT', so that the class is absent",
    ),
    "a dictionary": (
        'filename,label\na,"[{""category"": ""dog""}]"\n',
        "row 2: .* is no list of labels",
    ),
    "labels with scores": ("filename,label\na,\"[('dog', 0.9)]\"\n", "no list of labels"),
    "labels with scores behind them": (
        "filename,label\na,\na,dog:0.9;cat (0.1)\na,owl 80%\n",
        "row 3: 'dog:0.9;cat .0.1.' is no list of labels",
    ),
    "labels in Cyrillic letters of Windows": (
        "filename,label\na,Собака\n".encode("cp1251"),
        "row 2: not a table in UTF-8",
    ),
    "labels in Polish letters of Windows": (
        "filename,label\na,żółw\n".encode("cp1250"),
        "row 2: not a table in UTF-8",
    ),
    "labels in German letters of old Macs": (
        "filename,label\na,Straßenlärm\n".encode("mac_roman"),
        "row 2: not a table in UTF-8",
    ),
    "a number for each class": ("filename,label\na,[0. 1. 1.]\n", "no list of labels"),
    "a time and a duration": (
        "filename,label,time,duration\na,dog,1.5,2.5\na,cat,3,2\n",
        "no onset and offset, but several rows a file",
    ),
    "files of one name in two folders without File Offset": (
        "all.txt",
        f"{RAVEN}\tBegin Path\tCall\n1\tS 1\t1\t1\t2\t0\t9\tn/a.wav\tdog\n"
        "2\tS 1\t1\t70\t72\t0\t9\ts/a.wav\tdog",
        "over 2 files.*File Offset",
    ),
    "a title above the header": (
        "Yard 2024;;;\nfilename;onset;offset;label\na;0;1;dog\n",
        "row 2: more cells than the 1 columns that row 1 names",
    ),
    "R's word for no value": (f"{HEAD}a,NA,NA,NA\n", "empty cell"),
    "another table": ("Segment length,Overlap\n3,0\n", "move the file away"),
    "a spreadsheet with macros": ("e.xlsm", "PK", "save them as .xlsx"),
    "APLOSE": (
        "filename,start_time,end_time,annotation,annotator,start_datetime\na,0,1,dog,me,now\n",
        "tables of APLOSE are not read",
    ),
    "decisions of people, of whom some say no": (
        "filename,onset,offset,label,decision,who,when\na,0,1,dog,no,ann,\n",
        "tables of psl-jax review, which config.corrections takes, are not read",
    ),
    "an ELAN offset": (
        "a.txt",
        '"#file:///D:/a.wav -- offset: 1500, duration: 00:02:00.000\nt\t\t1.0\t2.0\t1.0\tdog\n',
        "row 1: .*offset 0",
    ),
    "ELAN's duration in place of the end": (
        "a.txt",
        "Tier\tBegin Time - ss.msec\tDuration - ss.msec\tAnnotation\nt\t1.25\t2.75\tdog\n",
        "row 1: a duration without begin or end",
    ),
    "rows of no recording": (f"{HEAD}b,0,1,dog\n", "row 2 of e.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tables_that_are_refused(tmp_path, case):
    *name, content, message = REFUSED[case]
    table = tmp_path / (name[0] if name else "e.csv")
    table.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "a.wav").touch()
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path, Hints())
