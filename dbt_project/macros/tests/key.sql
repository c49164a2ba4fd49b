{# The columns are a table's key: never null, and no two rows share them. #}
{% test key(model, columns) %}
select {{ columns | join(', ') }}
from {{ model }}
group by all
having
    count(*) > 1
    {% for column in columns %}
    or {{ column }} is null
    {% endfor %}
{% endtest %}
