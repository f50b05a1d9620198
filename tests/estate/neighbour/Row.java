import java.util.LinkedHashMap;

/** A record as a JSON object: no field is left out, absent ones are null. */
public class Row extends LinkedHashMap<String, Object> {
    static Row of(Object... namesAndValues) {
        Row row = new Row();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            row.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return row;
    }
}
