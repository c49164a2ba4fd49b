{# The members of a JSON list of texts (as text), or the text itself where it is no list. #}
{% macro texts_of(column) -%}
    case
        when starts_with({{ column }}, '[') and json_valid({{ column }}) then from_json({{ column }}, '["VARCHAR"]')
        when {{ column }} is not null then [{{ column }}]
    end
{%- endmacro %}
